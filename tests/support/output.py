"""Output that is written down in a page or a test, compared with what is printed."""

from __future__ import annotations

import re


def output_matches(printed: str, expected: str) -> bool:
    pattern = "".join(
        "(?:.*\n)*?"
        if line.strip() == "..."
        else ".*".join(map(re.escape, line.split("..."))) + "\n"
        for line in expected.splitlines()
    )
    return (
        re.fullmatch(pattern, "".join(f"{line.rstrip()}\n" for line in printed.splitlines()))
        is not None
    )
