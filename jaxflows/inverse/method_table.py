"""The methods of `jaxflows.infer` by name, for the command line too: it checks its options before it imports JAX."""

from __future__ import annotations

# name -> (module of this package, factory)
METHODS = {
    "ambient": ("ambient_method", "ambient"),
    "amortised": ("amortised_method", "amortised"),
    "asim": ("asim_method", "asim"),
    "constraint": ("constraint_method", "constraint"),
    "csgm": ("csgm_method", "csgm"),
    "gaussian": ("gaussian_method", "gaussian"),
    "hmc": ("blackjax_methods", "hmc"),
    "langevin": ("langevin_method", "langevin"),
    "mala": ("langevin_method", "mala"),
    "map": ("map_method", "most_probable"),
    "nuts": ("blackjax_methods", "nuts"),
    "plmcmc": ("plmcmc_method", "plmcmc"),
    "pregenerator": ("pregenerator_method", "pregenerator"),
    "sparse": ("sparse_method", "sparse"),
}
