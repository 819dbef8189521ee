"""The supervisor's process: `python -m penstock_server.app.workers PLAN`."""

import asyncio
import sys

import msgspec

from penstock_server.app.logs import configure_logging, one_line
from penstock_server.app.workers.plans import Plan
from penstock_server.app.workers.supervision import Finish
from penstock_server.app.workers.supervisor import Supervisor
from penstock_server.errors import BindError


def main() -> int:
    """Run until the end. The exit statuses are those of `penstock serve`."""
    plan = msgspec.json.decode(sys.argv[1], type=Plan)
    configure_logging(plan.log_level, plan.log_format)
    try:
        finish = asyncio.run(_supervise(plan))
    except BindError as error:
        finish = Finish(2, str(error))
    if finish.reason:
        print(f"penstock: {one_line(finish.reason)}", file=sys.stderr)
    return finish.status


async def _supervise(plan: Plan) -> Finish:
    return await Supervisor(plan).run()


if __name__ == "__main__":
    sys.exit(main())
