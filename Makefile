# Everything is in tools/task.py, which also runs where there is no make.
PYTHON ?= python3

.PHONY: setup demo test check check-native check-arm test-gpu test-slow wheel bench docs format
setup demo test check check-native check-arm test-gpu test-slow wheel bench docs format:
	@$(PYTHON) tools/task.py $@
