"""The parts of cifar10_table.py and cifar10_report.py."""
