"""Operations of a revision that serve both engines in one call."""
