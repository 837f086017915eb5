import torch
from torch import nn

from medcl.contrast.teacher import Teacher


def test_a_teacher_starts_as_its_student_and_follows_it():
    torch.manual_seed(0)
    student = nn.Linear(3, 2)
    teacher = Teacher(student, momentum=0.9)
    start = student.weight.detach().clone()
    assert torch.equal(teacher.copies[0].weight, start)
    expected = start.clone()
    for _ in range(3):
        with torch.no_grad():
            student.weight += torch.randn(2, 3)
        teacher.update()
        expected = 0.9 * expected + 0.1 * student.weight.detach()
    torch.testing.assert_close(teacher.copies[0].weight, expected)


def test_a_teacher_receives_no_gradient_and_is_saved_once():
    student = nn.Linear(3, 2)
    teacher = Teacher(student, nn.Linear(2, 2), momentum=0.5)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert student.weight.requires_grad
    assert sorted(teacher.state_dict()) == [
        "copies.0.bias",
        "copies.0.weight",
        "copies.1.bias",
        "copies.1.weight",
    ]


def test_running_statistics_are_copied():
    student = nn.BatchNorm1d(2)
    teacher = Teacher(student, momentum=0.99)
    student(torch.tensor([[1.0, 2.0], [3.0, 8.0]]))
    teacher.update()
    assert torch.equal(teacher.copies[0].running_mean, student.running_mean)
    assert int(teacher.copies[0].num_batches_tracked) == 1
