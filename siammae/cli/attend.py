from siammae.cli.options import add_command
def add_parser(commands): add_command(commands, "attend", None, "x")
