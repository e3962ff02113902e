"""Who takes part in the next step: answers first, then prompts piece by piece, then whoever waits.

    waiting, running + BlockPool -> admit -> plan(ready) -> [(Request, Run), ...]

Every request that writes gets its one token, so a long prompt never stops the others; what is left of the step's tokens
goes to prompts in the order in which they came. Memory is taken as tokens come. If it runs out, the youngest request
gives its own back and reads everything again later, its answer so far included.
"""

from collections import deque
from collections.abc import Callable

from minicpmv.errors import ContextLengthError, QueueFullError
from minicpmv.generation.engine.attention import Run
from minicpmv.generation.engine.blocks import BlockPool
from minicpmv.generation.engine.requests import Request


class Scheduler:
    """The order of requests and their memory.

    Args:
        pool: blocks of KV memory.
        most_running: requests that take part in steps at a time.
        most_waiting: requests that may wait; more are refused.
        step_tokens: most tokens of a step.
    """

    def __init__(self, pool: BlockPool, *, most_running: int, most_waiting: int, step_tokens: int) -> None:
        self.pool = pool
        self.most_running, self.most_waiting = most_running, most_waiting
        self.step_tokens = max(step_tokens, most_running)
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.num_preempted = 0

    def check(self, request: Request, context: int) -> None:
        """Refuse what can never be answered, or not now.

        Raises:
            ContextLengthError: the prompt and the answer do not fit the context, or all memory there is.
            QueueFullError: too many are waiting.
        """
        room = min(context, self.pool.num_blocks * self.pool.block_tokens)
        if request.most_tokens > room:
            prompt = len(request.prompt.ids)
            raise ContextLengthError(
                f"The prompt has {prompt} tokens, {request.prompt.num_visual_tokens} of them for pictures and clips, "
                f"and the answer may take {request.options.max_new_tokens}; there is room for {room}"
                + (" in the model's context." if room == context else " in KV memory."),
                remedy="Give fewer media, or fewer slices, frames or pages of them, or ask for a shorter answer.",
            )
        if len(self.waiting) >= self.most_waiting:
            raise QueueFullError(f"{len(self.waiting)} requests are waiting already.", remedy="Try again in a moment.")

    def sweep(self) -> list[Request]:
        """Requests that were cancelled or whose time is up; they take part no more."""
        gone = [request for request in (*self.running, *self.waiting) if request.is_cancelled or request.is_late]
        for request in gone:
            self.drop(request)
        return gone

    def drop(self, request: Request) -> None:
        """Take a request out, and its memory back."""
        if request in self.running:
            self.running.remove(request)
        else:
            self.waiting.remove(request)
        self._give_back(request)

    def admit(self) -> list[Request]:
        """Let waiting requests begin, in their order, as long as there is memory for what they have to read."""
        admitted: list[Request] = []
        held_up: list[Request] = []
        while self.waiting and len(self.running) < self.most_running:
            request = self.waiting.popleft()
            if _is_held_up(request):
                held_up.append(request)
                continue
            if not self._begin(request):
                self.waiting.appendleft(request)
                break
            self.running.append(request)
            admitted.append(request)
        self.waiting.extendleft(reversed(held_up))
        return admitted

    def plan(self, ready: Callable[[Request], int]) -> list[tuple[Request, Run]]:
        """The parts of the next step, memory included.

        Args:
            ready: up to which token a request can be read, since its pictures before have been encoded.
        """
        parts: list[tuple[Request, int]] = []
        left = self.step_tokens
        for request in [one for one in self.running if not one.is_reading]:
            if request in self.running and self._grow(request, len(request.ids)):
                parts.append((request, 1))
                left -= 1
        for request in [one for one in self.running if one.is_reading]:
            length = min(left, min(ready(request), len(request.ids)) - request.num_read)
            if length > 0 and request in self.running and self._grow(request, request.num_read + length):
                parts.append((request, length))
                left -= length
        return [
            (request, Run(request.num_read, length, tuple(request.blocks)))
            for request, length in parts
            if request in self.running  # a later one may have taken its memory
        ]

    def published(self, request: Request) -> None:
        """Let others find the blocks of a request that have become full."""
        keys = request.keys(self.pool.block_tokens)
        full = request.num_read // self.pool.block_tokens
        for place in range(request.num_published, full):
            self.pool.publish(request.blocks[place], keys[place])
        request.num_published = max(request.num_published, full)

    def _begin(self, request: Request) -> bool:
        """Hold blocks that are known already; whether there is room for the rest."""
        block_tokens = self.pool.block_tokens
        usable = (len(request.ids) - 1) // block_tokens  # the last token has to be read to know what follows
        known = self.pool.find(request.keys(block_tokens)[:usable])
        self.pool.hold(known)
        needed = self.pool.blocks_for(len(request.ids) + 1) - len(known)
        if needed > self.pool.num_available - len(self.running) and (self.running or needed > self.pool.num_available):
            self.pool.release(known)
            return False
        request.blocks = list(known)
        request.num_read = request.num_cached = len(known) * block_tokens
        request.num_published = len(known)
        return True

    def _grow(self, request: Request, num_tokens: int) -> bool:
        """Memory for so many tokens of a request; younger ones give theirs if they have to."""
        missing = self.pool.blocks_for(num_tokens) - len(request.blocks)
        if missing <= 0:
            return True
        while (taken := self.pool.take(missing)) is None:
            youngest = self.running[-1]
            self.running.remove(youngest)
            self._give_back(youngest)
            self.waiting.appendleft(youngest)
            self.num_preempted += 1
            if youngest is request:
                return False
        request.blocks += taken
        return True

    def _give_back(self, request: Request) -> None:
        self.pool.release(request.blocks)
        request.blocks = []
        request.num_read = request.num_published = 0


def _is_held_up(request: Request) -> bool:
    """Whether another one reads the same prompt right now."""
    first = request.waits_for
    return first is not None and not first.is_over and first.num_read < len(first.prompt.ids) - 1
