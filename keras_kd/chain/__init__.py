"""Stages, each distilled student the next one's teacher."""
