"""The studies of notebooks 06 and 07: arms, trainings and answers, the paper's numbers beside ours."""
