def markdown(document):
    return ""
