"""A model of a search's space, from what its trials reported: for the search itself and for those who read results."""
