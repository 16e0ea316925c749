"""`python -m spann.cli`."""

from spann.cli.app import main

main()
