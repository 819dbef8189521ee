"""The tickets of one class in one lane that are in no flow: a plain list.

Tickets that all leave in the next batch need no order among tenants, and few need no flows: they are sorted, and each
is told at which tag of its tenant its turn comes. That is the same order of service as that of the flows (flows.py),
for less, as long as nobody has waited so long that its level has risen.
"""

from typing import TYPE_CHECKING, Generic

from penstock_scheduler.tenants import Account, Shares
from penstock_scheduler.values import Place, State, T, Ticket

if TYPE_CHECKING:
    from penstock_scheduler.lanes import Tier

_QUEUED = State.QUEUED


class Inbox(Place, Generic[T]):
    """While no tenant of the class has turns to wait for, nobody in it has joined those who share; else all have."""

    __slots__ = ("_accounts", "_dead", "_shares", "_tier", "tickets")

    def __init__(self, tier: "Tier[T]", shares: Shares) -> None:
        self.tickets: list[T] = []
        """Those that have left are among them."""
        self._dead = 0
        self._accounts: dict[str, Account] = {}  # those who have joined
        self._shares = shares
        self._tier = tier

    def __repr__(self) -> str:
        return f"<Inbox: {len(self.tickets) - self._dead} requests>"

    def left(self, ticket: Ticket) -> None:
        self._tier.count_out(ticket.remaining)
        self._dead += 1
        if self._accounts:
            self._bury()
            self.let_go()

    def join(self) -> None:
        """Let everybody in it join those who share, now."""
        for ticket in self.tickets:
            if ticket.tenant not in self._accounts:
                self._accounts[ticket.tenant] = self._shares.join(ticket.tenant)

    def join_one(self, ticket: T) -> None:
        """The same for the ticket that was added last, where others share already."""
        if ticket.tenant not in self._accounts:
            if self._accounts:
                self._accounts[ticket.tenant] = self._shares.join(ticket.tenant)
            else:
                self.join()

    def oldest(self) -> float:
        """When the first was admitted. There must be one."""
        self._bury()
        return min([ticket.enqueued for ticket in self.tickets])

    def first(self) -> T:
        """Who goes first. There must be one."""
        if self._dead:
            self._bury()
        return self._turns()[0][4]

    def take(self, room: int) -> tuple[list[T], int]:
        """Take out what fits into so many rows, in the order of service, and charge the tenants. With its rows."""
        if self._dead:
            self._bury()
        shares, taken_rows = self._shares, 0
        taken: list[T] = []
        staying: list[T] = []
        waiting: dict[str, Account] = {}
        for _, tag, _, _, ticket, account in self._turns():
            rows = ticket.remaining
            if rows > room:
                room = 0  # nobody is passed over
                staying.append(ticket)
                waiting[ticket.tenant] = account
            else:
                room -= rows
                taken_rows += rows
                account.tag = tag + rows / account.weight
                if shares.now < tag:
                    shares.now = tag
                taken.append(ticket)
        for tenant, account in self._accounts.items():
            if tenant not in waiting:
                shares.leaves(account)  # the same as `let_go`, which would look for who waits once more
        self.tickets, self._accounts = staying, waiting
        return taken, taken_rows

    def _turns(self) -> list[tuple[int, float, float, int, T, Account]]:
        """All by level, then the tag that a tenant has by then, then as they are due. Everybody has joined."""
        tickets, accounts = self.tickets, self._accounts
        if not accounts:
            self.join()
        for account in accounts.values():
            account.turn = account.tag
        tickets.sort(key=self._tier.order_within_class)  # a tenant's own order, in which its tag grows
        turns: list[tuple[int, float, float, int, T, Account]] = []
        for ticket in tickets:
            account = accounts[ticket.tenant]
            tag = account.turn
            account.turn = tag + ticket.remaining / account.weight
            turns.append((ticket.rank, tag, ticket.due, ticket.sequence, ticket, account))
        if len(accounts) > 1:
            turns.sort()
        return turns

    def hand_over(self) -> list[T]:
        """Take out everything, to be given to flows. Who has joined stays joined until `let_go`: those join first."""
        self._bury()
        tickets, self.tickets = self.tickets, []
        return tickets

    def drain(self) -> list[T]:
        """Take out everything. Nobody is charged, since all that share leave: those who come next start level again."""
        if self._dead:
            self._bury()
        tickets, self.tickets = self.tickets, []
        if self._accounts:
            self.let_go()
        return tickets

    def clear(self) -> None:
        """Forget those that have left. There must be no other."""
        if self._dead:
            self.tickets, self._dead = [], 0

    def _bury(self) -> None:
        """Throw out those that have left."""
        if self._dead:
            self.tickets = [ticket for ticket in self.tickets if ticket.state is _QUEUED]
            self._dead = 0

    def let_go(self) -> None:
        """Who has nothing here any more shares no more."""
        waiting = {ticket.tenant for ticket in self.tickets}
        for tenant in self._accounts.keys() - waiting:
            self._shares.leaves(self._accounts.pop(tenant))
