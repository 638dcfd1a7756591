"""``python -m jetson_agent``: the same as ``edgealign-agent``."""

from jetson_agent.cli import main

if __name__ == "__main__":
    main()
