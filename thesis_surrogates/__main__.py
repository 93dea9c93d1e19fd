"""`python -m thesis_surrogates` is the command line."""

from thesis_surrogates.cli import main

if __name__ == "__main__":
    main()
