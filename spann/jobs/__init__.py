"""Jobs: work on a whole collection or any number of queries, in bounded memory. A killed job resumes."""

from spann.jobs.groups import Duplicates
from spann.jobs.memory import JobMemory, share_memory
from spann.jobs.methods import JobMethods, Joined, join
from spann.jobs.output import OutputFolder, Shape, Shard
from spann.jobs.own import OwnVectors, settled
from spann.jobs.parts import PART_ROWS, find_parts, own_parts
from spann.jobs.search import answer_own, answer_parts, answer_queries, describe

__all__ = [
    "PART_ROWS",
    "Duplicates",
    "JobMemory",
    "JobMethods",
    "Joined",
    "OutputFolder",
    "OwnVectors",
    "Shape",
    "Shard",
    "answer_own",
    "answer_parts",
    "answer_queries",
    "describe",
    "find_parts",
    "join",
    "own_parts",
    "settled",
    "share_memory",
]
