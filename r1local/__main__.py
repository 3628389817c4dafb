"""The door: `r1local` and `python -m r1local`."""

from r1local.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
