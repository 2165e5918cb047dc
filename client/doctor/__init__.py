"""Why a site does not work as it should: what `wardround client doctor` looks at."""
