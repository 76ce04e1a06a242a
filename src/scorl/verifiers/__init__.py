"""Verifiers: r(y, y*) in {0, 1} from the text of a response; the only place where errors are swallowed."""
