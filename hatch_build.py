"""A step of the build: README.md for the package index, where no file stands beside it.

A relative link becomes one into the repository, whose address is `Source` in
`[project.urls]`. While there is none, a link becomes its text, and a picture goes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

PICTURE = re.compile(r"<picture>.*?</picture>\n*", re.DOTALL)
FILE_OF_PICTURE = re.compile(r'(src|srcset)="(?!https:)([^"]+)"')
LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#)([^)]+)\)")


class ReadmeHook(MetadataHookInterface):
    """Called by hatchling, which finds it by its base class."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = Path(self.root, "README.md").read_text("utf-8")
        source = metadata.get("urls", {}).get("Source", "")

        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": for_the_index(text, source),
        }


def for_the_index(text: str, source: str) -> str:
    """`source` is the address of the repository, "" if it is not known."""
    if not source:
        return LINK.sub(r"\1", PICTURE.sub("", text))

    text = FILE_OF_PICTURE.sub(rf'\1="{source}/raw/HEAD/\2"', text)
    return LINK.sub(rf"[\1]({source}/blob/HEAD/\2)", text)
