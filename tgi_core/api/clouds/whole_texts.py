"""Whole texts for a list of wishes, side by side: what the clouds' batch routes need."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from tgi_core.api.choice import Choice, all_of
from tgi_core.api.exchange import Exchange
from tgi_core.api.generate.convert import best
from tgi_core.api.service import ServedModel, Service, to_engine_requests
from tgi_core.api.together import together
from tgi_core.text.stops import KeepStop
from tgi_core.text.validate import Wishes, check


async def whole_texts(
    service: Service, model: ServedModel, exchange: Exchange, wishes: Sequence[Wishes]
) -> list[str]:
    """The generated texts, in the order of the wishes. The first that fails fails them all.

    Raises:
        TgiError: any of them is refused or fails.
        ClientGone: nobody waits for them.
    """

    async def work() -> list[str]:
        for wish in wishes:
            check(wish, model.limits)
        with ExitStack() as stack:
            stack.enter_context(service.admission.permits(sum(wish.num_choices for wish in wishes)))
            groups = [await to_engine_requests(model, wish, exchange.caller) for wish in wishes]
            choices = [
                [
                    stack.enter_context(
                        Choice(service, model, request, wish.stop, KeepStop, exchange.record)
                    )
                    for request in group
                ]
                for group, wish in zip(groups, wishes, strict=True)
            ]
            results = await together([all_of(group) for group in choices])
        return ["".join(piece.shown for piece in best(group).pieces) for group in results]

    return await exchange.while_connected(work())
