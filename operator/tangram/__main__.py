"""``python -m tangram``."""

from tangram.cli.main import main

if __name__ == "__main__":
    main()
