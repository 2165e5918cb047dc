"""Plans that come with wardround; `wardround simulate breast-cancer` finds them by name."""
