"""Charge an order at most once, though the connection may break after the bank has charged it.

    python examples/payments.py

A task whose resource breaks is retried, because most work may be done twice. A payment may not: if the connection
breaks after the charge and before the answer, a retry charges again. `queue_task_once` never retries. After its error
the charge may have been made or not: no queue can know, and the caller must find out, not guess. So:

1. write down that the order is being charged, before it is (in a database: the program may end at any moment);
2. charge it with `queue_task_once`; an error that leaves the charge in doubt is written down as doubt;
3. settle what is in doubt by asking the bank. Asking changes nothing there, so it may be retried like any other task,
   and writing the answer down twice does no harm either.

Where the bank takes an idempotency key with each charge, send one: then it is the bank that charges once, and retries
are harmless.
"""

from __future__ import annotations

import threading

from tasker import Config, TaskManager, unhealthy_on


class Bank:
    """The other side: what it has charged is charged, whatever becomes of its answer."""

    def __init__(self) -> None:
        self.charges: list[str] = []
        self.answers_to_lose = 1
        self.lock = threading.Lock()  # guards both


class ConnectionBroken(Exception):
    """The connection is of no use any more. Whether the last request was carried out, nobody on this side knows."""


class Connection:
    """The resource: a connection to the bank, which breaks when an answer is lost."""

    def __init__(self, bank: Bank) -> None:
        self.bank = bank

    def charge(self, order: str) -> str:
        with self.bank.lock:
            self.bank.charges.append(order)
            number = len(self.bank.charges)
        self._receive_answer()
        return f"receipt {number}"

    def find_receipt(self, order: str) -> str | None:
        self._receive_answer()
        with self.bank.lock:
            return (
                f"receipt {self.bank.charges.index(order) + 1}"
                if order in self.bank.charges
                else None
            )

    def _receive_answer(self) -> None:
        with self.bank.lock:
            if self.bank.answers_to_lose:
                self.bank.answers_to_lose -= 1
                raise ConnectionBroken("no answer from the bank")


def connect(bank: Bank) -> Config[Connection]:
    return Config(
        on_create=lambda: Connection(bank),
        on_destroy=lambda _: None,  # there is nothing to close here
        worker_count=2,
        check_health=unhealthy_on(ConnectionBroken),
    )


class Shop:
    """The books of the shop: what is known of each order. One thread writes them, this one."""

    def __init__(self, manager: TaskManager[Connection]) -> None:
        self.manager = manager
        self.books: dict[str, str] = {}

    def pay(self, order: str) -> str:
        """Charge an order, unless that was tried before; returns what is known of it now."""
        if order not in self.books:  # or a customer has clicked twice
            self.books[order] = (
                "in doubt"  # so it stays if the next line raises: no error says what the bank has done
            )
            self.books[order] = self.manager.queue_task_once(Connection.charge, order)
        return self.books[order]

    def settle(self) -> None:
        """Ask the bank about all that is in doubt, once no charge is under way. May be interrupted and run again."""
        for order in [order for order, known in self.books.items() if known == "in doubt"]:
            receipt = self.manager.queue_task(Connection.find_receipt, order)
            if receipt is None:
                del self.books[order]  # it was not charged: `pay` may try it again
            else:
                self.books[order] = receipt


def retry() -> None:
    bank = Bank()
    with TaskManager(connect(bank)) as manager:
        print("queue_task: the lost answer costs a retry, and the customer a second charge")
        print("  the caller sees:", manager.queue_task(Connection.charge, "order 1"))
        print("  the bank charged:", bank.charges)


def charge_at_most_once() -> None:
    bank = Bank()
    with TaskManager(connect(bank)) as manager:
        shop = Shop(manager)
        print("queue_task_once: one charge, and an error for the caller")
        try:
            shop.pay("order 2")
        except ConnectionBroken as error:
            print("  the caller sees:", error)
        print("  the bank charged:", bank.charges)
        print("  the books say:", shop.pay("order 2"))  # charges nothing: it was tried before

        bank.answers_to_lose = 1
        shop.settle()  # this answer is lost as well: asked again on a new connection, and nobody notices
        print("settled: the books agree with the bank")
        print("  the books say:", shop.pay("order 2"))
        print("  the bank charged:", bank.charges)
        print(
            "  the next order:", shop.pay("order 3")
        )  # broken connections are replaced, whoever broke them


def main() -> None:
    retry()
    charge_at_most_once()


if __name__ == "__main__":
    main()
