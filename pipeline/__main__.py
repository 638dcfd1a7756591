"""``python -m pipeline``: the command line, with the working folder's code in front of any installed one."""

from pipeline.cli import main

main()
