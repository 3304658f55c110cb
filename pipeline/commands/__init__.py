"""The subcommands of `race`, a module for each group of them."""
