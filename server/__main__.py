"""`python -m server` is `freshet`."""

from server.cli import main

if __name__ == "__main__":
    main()
