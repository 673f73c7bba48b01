"""Fixed points and the constraint g(y) = x with y observed and x hidden given: one module a method."""
