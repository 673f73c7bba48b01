"""The command line: ``jaxflows complete``, ``jaxflows train`` and ``jaxflows info``."""
