"""Fair shares between the tenants of one class of traffic: start-time fair queueing.

Each tenant has a *tag*, the virtual time at which its next row would start: rows served divided by its weight. The
least tag goes first. `Shares.now` is the virtual time of the class, the tag of what was served last. A tenant that
comes back from a pause starts there and not at its old tag: what it did not use is not saved up (and what it
used beyond its share before the pause is still owed). An account serves all lanes and levels of its class.

A tenant alone pays one addition a batch for this.
"""

from collections.abc import Mapping

_SPARE = 64
"""Accounts that are kept though nothing of theirs is queued."""


class Account:
    """One tenant in one class of traffic."""

    __slots__ = ("flows", "tag", "turn", "weight")

    def __init__(self, weight: float, tag: float) -> None:
        self.weight = weight
        self.tag = tag
        self.turn = tag
        """The tag that it will have by then, for whoever looks ahead."""
        self.flows = 0
        """Lanes and levels in which it has something queued."""


class Shares:
    """The accounts of one class of traffic."""

    __slots__ = ("_accounts", "_latest", "_weights", "busy", "now")

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        self._accounts: dict[str, Account] = {}
        self._latest = 0.0  # the greatest tag of those that left
        self.busy = 0
        """Accounts with flows."""
        self.now = 0.0

    def __len__(self) -> int:
        """Accounts held."""
        return len(self._accounts)

    def account(self, tenant: str) -> Account:
        """A tenant's account, opened if it has none."""
        account = self._accounts.get(tenant)
        if account is None:
            if len(self._accounts) > 2 * self.busy + _SPARE:
                self._close_idle()
            account = self._accounts[tenant] = Account(self._weights.get(tenant, 1.0), self.now)
        return account

    def join(self, tenant: str) -> Account:
        """One more flow of a tenant has something queued: its account."""
        account = self._accounts.get(tenant)
        if account is None:
            account = self.account(tenant)
        if not account.flows:
            self.busy += 1
            if account.tag < self.now:
                account.tag = self.now
        account.flows += 1
        return account

    def leaves(self, account: Account) -> None:
        """One flow less."""
        account.flows -= 1
        if not account.flows:
            self.busy -= 1
            if self._latest < account.tag:
                self._latest = account.tag
            if not self.busy:
                self.now = self._latest  # nobody is owed anything: all start level again

    def serve(self, account: Account, rows: int, last: int = 0) -> None:
        """Charge an account for rows that go into a batch; of several requests, with the rows of the `last`."""
        tag = account.tag
        account.tag = tag + rows / account.weight
        if last:
            tag = account.tag - last / account.weight
        if self.now < tag:
            self.now = tag

    def _close_idle(self) -> None:
        """Forget those who have nothing queued and owe nothing."""
        for tenant, account in list(self._accounts.items()):
            if not account.flows and account.tag <= self.now:
                del self._accounts[tenant]
