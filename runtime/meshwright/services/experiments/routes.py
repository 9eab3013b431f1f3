"""`/v1/experiments`: make, run and stop experiments on agents, and read their results."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Query, Response
from pydantic import Field

from meshwright.core.ids import ID_PATTERN, Identifier
from meshwright.core.messages import Caller
from meshwright.edges.bodies import Strict
from meshwright.edges.http.routing import MeshDep, by_rule, make_router, problems
from meshwright.services.experiments.operations import CHANGE, SEE, Experiments
from meshwright.services.experiments.records import (
    Experiment,
    ExperimentPage,
    ExperimentRequest,
    ExperimentResults,
    ExperimentRun,
    ExperimentRunRequest,
)
from meshwright.services.experiments.table import MAX_ID

router = make_router("experiments", names_tenant=True)
_NONE = {404: "There is no such experiment."}
_MAY_CHANGE = {403: "Only a caller with the role operator changes experiments."}


class _ExperimentQuery(Strict):
    """Which experiments to list. `cursor` is the `cursor` of the page before."""

    limit: int = Field(default=100, ge=1, le=500)
    cursor: Identifier | None = None


async def _experiments_of(mesh: MeshDep) -> Experiments:
    return mesh.get(Experiments)


_Experiments = Annotated[Experiments, Depends(_experiments_of)]
_ViewerDep = Annotated[Caller, by_rule(SEE)]
_OperatorDep = Annotated[Caller, by_rule(CHANGE)]
_Id = Annotated[str, Path(pattern=ID_PATTERN)]


@router.get("/v1/experiments", summary="List experiments")
async def _list_experiments(
    experiments: _Experiments, caller: _ViewerDep, query: Annotated[_ExperimentQuery, Query()]
) -> ExperimentPage:
    """List the experiments of your tenant, the newest first."""
    return await experiments.page(caller, before=query.cursor or MAX_ID, limit=query.limit)


@router.post(
    "/v1/experiments",
    status_code=201,
    summary="Make an experiment",
    response_description="Durable. It does nothing before it is run.",
    responses=problems(
        {
            404: "There is no such agent, or its prompt has no such version.",
            507: "The tenant has as many experiments as it may.",
            **_MAY_CHANGE,
        }
    ),
)
async def _create_experiment(
    experiments: _Experiments, caller: _OperatorDep, request: ExperimentRequest, response: Response
) -> Experiment:
    """Make an experiment on an agent: two to ten variants, of which the first is what the agent does now."""
    experiment = await experiments.create(caller, request)
    response.headers["Location"] = f"/v1/experiments/{experiment.experiment_id}"
    return experiment


@router.get("/v1/experiments/{experiment_id}", summary="Show an experiment", responses=problems(_NONE))
async def _show_experiment(experiments: _Experiments, caller: _ViewerDep, experiment_id: _Id) -> Experiment:
    """Show an experiment with its variants, and why it was stopped."""
    return await experiments.show(caller, experiment_id)


@router.post(
    "/v1/experiments/{experiment_id}/run",
    summary="Run an experiment",
    response_description="Durable: the next task of the agent gets a variant, or these tasks are accepted.",
    responses=problems(
        {409: "It was stopped, or another runs over the tasks of that agent.", **_NONE, **_MAY_CHANGE}
    ),
)
async def _run_experiment(
    experiments: _Experiments, caller: _OperatorDep, experiment_id: _Id, request: ExperimentRunRequest
) -> ExperimentRun:
    """Choose variants for live tasks from now on; with `inputs` have each variant do a task of each.

    The latter takes the role submitter as well. The same inputs make no further tasks.
    """
    return await experiments.run(caller, experiment_id, request)


@router.post(
    "/v1/experiments/{experiment_id}/stop",
    summary="Stop an experiment",
    response_description="Durable: no further task gets a variant.",
    responses=problems({**_NONE, **_MAY_CHANGE}),
)
async def _stop_experiment(experiments: _Experiments, caller: _OperatorDep, experiment_id: _Id) -> Experiment:
    """Stop an experiment for good. Tasks that have a variant end with it, and count in the results."""
    return await experiments.end(caller, experiment_id)


@router.get(
    "/v1/experiments/{experiment_id}/results",
    summary="Show results",
    responses=problems(_NONE),
)
async def _show_results(
    experiments: _Experiments, caller: _ViewerDep, experiment_id: _Id
) -> ExperimentResults:
    """Show each metric of each variant with its interval, and against the first variant with a p-value.

    You may look as often as you like: the p-values hold all the same.
    """
    return await experiments.results(caller, experiment_id)
