"""A weather archive to try the platform on without NOAA: real formats and sizes, invented weather."""
