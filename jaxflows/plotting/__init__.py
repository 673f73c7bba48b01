"""Pictures of completions, fits and solvers: functions that return a matplotlib ``Figure`` and touch no global state."""

from jaxflows.plotting.completions import completion_figure
from jaxflows.plotting.curves import convergence_figure, trace_figure
from jaxflows.plotting.style import save_figure

__all__ = ["completion_figure", "convergence_figure", "save_figure", "trace_figure"]
