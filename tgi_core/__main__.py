"""`python -m tgi_core` is `tgi`."""

from tgi_core.cli.app import main

if __name__ == "__main__":
    raise SystemExit(main())
