"""Filters: which vectors a search may return, said of the columns beside them.

A filter comes as SQL (`parse`), as expressions of Python (`col`) or as a dictionary (`from_dict`). All three become an
`Expression`. `resolve` gives its constants the types of the columns, in a canonical form (`Filter`). `evaluate` finds
the places that match. `spann.filters.parse` is imported only for text, as lark takes time to import.
"""

from spann.filters.dialects import from_dict
from spann.filters.evaluate import Columns, Places, evaluate
from spann.filters.expression import Col, Expression, among_ids, col
from spann.filters.resolve import resolve

__all__ = [
    "Col", "Columns", "Expression", "Places", "among_ids", "col", "evaluate", "from_dict", "resolve"
]  # fmt: skip
