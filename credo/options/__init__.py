"""The options of the commands that read no recipe. Importable without torch, so that their ``--help`` is quick."""
