"""Work: what runs long. Claims, fences, the step journal, the inbox of a thread, and this worker's slots.

A turn never waits for a model or a tool. It queues a task; a worker with a free slot claims it by a turn
that raises the fence, runs it with every step journaled, and commits the end by a turn that checks the fence.
"""

from meshwright.engine.work.entry import ThreadState
from meshwright.engine.work.journal import Journal
from meshwright.engine.work.paths import LifeCall
from meshwright.engine.work.protocol import Answer, Cancel, Claim, Complete, Suspend, Wait, Work
from meshwright.engine.work.slots import Offer, SlotTable, Withdraw
from meshwright.engine.work.thread import AgentThread
from meshwright.engine.work.waits import RunInterrupted, RunSuspended
from meshwright.engine.work.worker import Worker

__all__ = [
    "AgentThread",
    "Answer",
    "Cancel",
    "Claim",
    "Complete",
    "Journal",
    "LifeCall",
    "Offer",
    "RunInterrupted",
    "RunSuspended",
    "SlotTable",
    "Suspend",
    "ThreadState",
    "Wait",
    "Withdraw",
    "Work",
    "Worker",
]
