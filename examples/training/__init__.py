"""What several programs share: data, recipes, runs that can be resumed."""
