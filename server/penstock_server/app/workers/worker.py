"""A worker's process: `python -m penstock_server.app.workers.worker POST`, a whole server without a metrics port.

It ends when its supervisor says so, when that is gone (the link closes), or on SIGTERM and SIGINT, and always by
draining. It never ends at a second signal: a Ctrl-C reaches it as well as its supervisor, and some who stop services
signal every process of them. Whoever wants it gone at once has SIGKILL, as the supervisor has.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
from dataclasses import replace

import msgspec
import uvloop

from penstock_server.app.announce import served_by
from penstock_server.app.logs import configure_logging
from penstock_server.app.run import NothingServed, serve_until
from penstock_server.app.server import PenstockServer
from penstock_server.app.settings import ServerSettings
from penstock_server.app.workers.launch import read_settings
from penstock_server.app.workers.link import Ask, Refused, Report, Started, ToWorker, link_to_supervisor
from penstock_server.app.workers.plans import STOP_SIGNALS, Post
from penstock_server.errors import BindError, LoadError
from penstock_server.metrics.merge import dump

_log = logging.getLogger("penstock_server.app.workers.worker")  # this module's own name is __main__


def main() -> int:
    """Serve. The exit statuses are those of `penstock serve`."""
    post = msgspec.json.decode(sys.argv[1], type=Post)
    configure_logging(post.log_level, post.log_format, post.worker)
    settings = read_settings(post.settings_file)
    os.close(post.settings_file)
    os.set_inheritable(post.link, False)  # what a model starts must not keep it open
    settings = replace(
        settings, transport=replace(settings.transport, port=post.port, reuse_port=True), metrics_port=None
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_work(settings, socket.socket(fileno=post.link)))


async def _work(settings: ServerSettings, end: socket.socket) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, _on_signal, number, stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    link = await link_to_supervisor(end)
    server = PenstockServer(settings)

    def heard(message: ToWorker) -> None:
        if isinstance(message, Ask):
            link.send(_report(server))
        else:
            stop.set()

    async def listen() -> None:
        try:
            await link.receive(heard)
        finally:
            if not stop.is_set():
                _log.warning("the supervisor is gone: draining")
                stop.set()

    listening = asyncio.create_task(listen())
    try:
        drained = await serve_until(stop, server, lambda server: link.send(Started(served_by(server))))
        link.send(_report(server))
        return 0 if drained else 1
    except NothingServed as error:
        link.send(Refused(1, str(error)))
        return 1
    except (LoadError, BindError) as error:
        link.send(Refused(2, str(error)))
        return 2
    finally:
        stop.set()
        listening.cancel()
        await link.close()


def _report(server: PenstockServer) -> Report:
    return Report(server.state.ready, dump(server.metrics().collect()))


def _on_signal(number: int, stop: asyncio.Event) -> None:
    if not stop.is_set():
        _log.info("%s: draining", signal.Signals(number).name)
        stop.set()


if __name__ == "__main__":
    sys.exit(main())
