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
                self._join(ticket.tenant)

    def join_one(self, ticket: T) -> None:
        """The same for the ticket that was added last, where others share already."""
        if not self._accounts:
            self.join()
        elif ticket.tenant not in self._accounts:
            self._join(ticket.tenant)

    def oldest(self) -> float:
        """When the first was admitted. There must be one."""
        self._bury()
        return min([ticket.enqueued for ticket in self.tickets])

    def take(self, room: int) -> list[T]:
        """Take out what fits into so many rows, in the order of service, and charge the tenants for it."""
        if self._dead:
            self._bury()
        self.join()
        self.tickets.sort(key=self._tier.order_within_class)
        tickets = self.tickets if len(self._accounts) == 1 else self._by_turns()
        shares, accounts = self._shares, self._accounts
        count = 0
        for ticket in tickets:
            rows = ticket.remaining
            if rows > room:
                break
            room -= rows
            count += 1
            shares.serve(accounts[ticket.tenant], rows)
        taken, self.tickets = tickets[:count], tickets[count:]
        self.let_go()
        return taken

    def _by_turns(self) -> list[T]:
        """All by level, then the tag that a tenant has by then, then as they are due. They are sorted but for tags."""
        accounts = self._accounts
        tags: dict[str, float] = {}
        turns: list[tuple[int, float, float, int, T]] = []
        for ticket in self.tickets:
            tenant = ticket.tenant
            account = accounts[tenant]
            tag = tags.get(tenant, account.tag)
            tags[tenant] = tag + ticket.remaining / account.weight
            turns.append((ticket.rank, tag, ticket.due, ticket.sequence, ticket))
        turns.sort()
        return [turn[4] for turn in turns]

    def hand_over(self) -> list[T]:
        """Take out everything, to be given to flows. Who has joined stays joined until `let_go`: those join first."""
        self._bury()
        tickets, self.tickets = self.tickets, []
        return tickets

    def drain(self) -> list[T]:
        """Take out everything. Nobody is charged, since all that share leave: those who come next start level again."""
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

    def _join(self, tenant: str) -> Account:
        account = self._accounts[tenant] = self._shares.account(tenant)
        self._shares.joins(account)
        return account

    def let_go(self) -> None:
        """Who has nothing here any more shares no more."""
        accounts = self._accounts
        waiting = {ticket.tenant for ticket in self.tickets}
        if len(waiting) < len(accounts):
            for tenant in accounts.keys() - waiting:
                self._shares.leaves(accounts.pop(tenant))
