"""Pictures of completions, inferences, fits and solvers: functions to a matplotlib ``Figure`` that touch no global state."""

from jaxflows.plotting.completions import completion_figure
from jaxflows.plotting.curves import convergence_figure, trace_figure
from jaxflows.plotting.inferences import comparison_figure, inference_figure
from jaxflows.plotting.style import save_figure

__all__ = ["comparison_figure", "completion_figure", "convergence_figure", "inference_figure", "save_figure", "trace_figure"]
