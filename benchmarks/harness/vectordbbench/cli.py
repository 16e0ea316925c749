"""`vectordbbench spann`."""

from typing import Annotated, Unpack

import click

from ....cli.cli import CommonTypedDict, cli, click_parameter_decorators_from_typed_dict, run
from .. import DB


class SpannTypedDict(CommonTypedDict):
    path: Annotated[str, click.option("--path", type=str, required=True, help="Folder of the index")]
    target_recall: Annotated[
        float, click.option("--target-recall", type=float, default=0.95, help="Recall that searches aim at")
    ]
    memory_budget: Annotated[
        str, click.option("--memory-budget", type=str, default="auto", help="Memory of the open index: auto, none, 1GB")
    ]


@cli.command()
@click_parameter_decorators_from_typed_dict(SpannTypedDict)
def Spann(**parameters: Unpack[SpannTypedDict]):
    from .config import SpannConfig, SpannIndexConfig

    run(
        db=DB.Spann,
        db_config=SpannConfig(path=parameters["path"], db_label=parameters["db_label"]),
        db_case_config=SpannIndexConfig(
            target_recall=parameters["target_recall"], memory_budget=parameters["memory_budget"]
        ),
        **parameters,
    )
