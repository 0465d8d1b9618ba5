// What the tool must check before Swift's runtime starts. Nothing is called: linking it in is enough.
