"""The command line: ``jaxflows complete``, ``jaxflows infer``, ``jaxflows train`` and ``jaxflows info``."""
