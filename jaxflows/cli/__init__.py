"""The command line: ``jaxflows complete``, ``train``, ``evaluate`` and ``info``."""
