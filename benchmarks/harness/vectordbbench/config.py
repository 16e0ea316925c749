"""The settings of spann in VectorDBBench: where the index lies, and which recall a search aims at."""

from ..api import DBConfig, EmptyDBCaseConfig, MetricType

METRICS = {MetricType.L2: "l2", MetricType.COSINE: "cosine", MetricType.IP: "ip", MetricType.DP: "ip"}


class SpannConfig(DBConfig):
    path: str

    def to_dict(self) -> dict:
        return {"path": self.path}


class SpannIndexConfig(EmptyDBCaseConfig):
    metric_type: MetricType | None = None
    target_recall: float = 0.95
    memory_budget: str = "auto"

    def index_param(self) -> dict:
        return {"metric": METRICS[self.metric_type]}

    def search_param(self) -> dict:
        return {"target_recall": self.target_recall}
