"""Charge an order at most once, though the connection may break after the charge.

    python examples/payments.py

A task whose resource breaks is retried, because most work may be done twice. A payment
may not. If the connection breaks after the charge and before the answer, a retry
charges again. `queue_task_once` never retries. After its error the charge may have been
made or not. No queue can know, and the caller must find out, not guess. So:

1. Write down that the order is being charged, before it is charged. Use a database: the
   program may end at any moment.
2. Charge it with `queue_task_once`. After an error that leaves the charge in doubt, the
   books keep it as in doubt.
3. Settle every order that is in doubt by asking the bank. Asking changes nothing there,
   so it may be retried like any other task. Writing the answer down twice does no harm
   either.

Some banks take an idempotency key with each charge. Send one where you can: then the
bank itself charges once, and retries are harmless.
"""

from __future__ import annotations

import threading

from tasker import Config, TaskManager, unhealthy_on


class Bank:
    """The other side. A charge stands, even if the answer is lost."""

    def __init__(self) -> None:
        self.charges: list[str] = []
        self.answers_to_lose = 1
        # Guards both of them.
        self.lock = threading.Lock()


class ConnectionBroken(Exception):
    """The connection is of no use any more.

    This side cannot know whether the last request was carried out.
    """


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
            if order not in self.bank.charges:
                return None
            return f"receipt {self.bank.charges.index(order) + 1}"

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
    """The books of the shop: a line for each order. One thread alone writes them."""

    def __init__(self, manager: TaskManager[Connection]) -> None:
        self.manager = manager
        self.books: dict[str, str] = {}

    def pay(self, order: str) -> str:
        """Charge an order, unless that was tried before; return its line."""
        # A customer may have clicked twice.
        if order not in self.books:
            # This stays if the charge raises: no error tells what the bank has done.
            self.books[order] = "in doubt"
            self.books[order] = self.manager.queue_task_once(Connection.charge, order)

        return self.books[order]

    def settle(self) -> None:
        """Ask the bank about each order that is in doubt, while no charge is under way.

        This may be interrupted and run again.
        """
        for order in [order for order, known in self.books.items() if known == "in doubt"]:
            receipt = self.manager.queue_task(Connection.find_receipt, order)
            if receipt is None:
                # It was not charged, so `pay` may try it again.
                del self.books[order]
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
        # This charges nothing, because it was tried before.
        print("  the books say:", shop.pay("order 2"))

        bank.answers_to_lose = 1
        # This answer is lost as well. The question is asked again on a new connection,
        # and the caller notices nothing.
        shop.settle()
        print("settled: the books agree with the bank")
        print("  the books say:", shop.pay("order 2"))
        print("  the bank charged:", bank.charges)
        # Broken connections are replaced, also after `queue_task_once`.
        print("  the next order:", shop.pay("order 3"))


def main() -> None:
    retry()
    charge_at_most_once()


if __name__ == "__main__":
    main()
