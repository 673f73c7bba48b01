"""The command line: ``jaxflows complete``, ``infer``, ``train``, ``evaluate`` and ``info``."""
