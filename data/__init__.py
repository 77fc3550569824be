"""What an image is: records, the datasets' layouts, transforms and loaders."""
