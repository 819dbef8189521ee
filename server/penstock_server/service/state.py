"""What the server as a whole is doing: starting, serving, or on its way out."""

from collections.abc import Callable

from penstock_server.engine.versions import Models


class ServerState:
    """Liveness and readiness, and who wants to hear of a change."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._started = False
        self._exiting = False
        self._watchers: dict[object, Callable[[], None]] = {}

    def __repr__(self) -> str:
        if self._exiting:
            state = "exiting"
        elif not self._started:
            state = "starting"
        else:
            state = "ready" if self.ready else "not ready"
        return f"<ServerState {state}, {len(self._watchers)} watchers>"

    @property
    def exiting(self) -> bool:
        """The server drains: what was accepted is finished, nothing new is taken."""
        return self._exiting

    @property
    def live(self) -> bool:
        return not self._exiting

    @property
    def ready(self) -> bool:
        """Whether every model is served as its operator wants it, and the server takes requests."""
        return self._started and not self._exiting and self._models.ready

    @property
    def watchers(self) -> int:
        return len(self._watchers)

    def start(self) -> None:
        """Every model was loaded, or has failed to."""
        self._started = True
        self.changed()

    def exit(self) -> None:
        """The server begins to drain."""
        self._exiting = True
        self.changed()

    def changed(self) -> None:
        """Tell the watchers to look again."""
        for callback in list(self._watchers.values()):
            callback()

    def watch(self, key: object, callback: Callable[[], None]) -> None:
        """Call back at each change, until `unwatch`."""
        self._watchers[key] = callback

    def unwatch(self, key: object) -> None:
        self._watchers.pop(key, None)
