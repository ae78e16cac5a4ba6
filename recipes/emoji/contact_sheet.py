"""The README's contact sheet: forty prompts written before there was a model, drawn once, nothing picked.

    python recipes/emoji/contact_sheet.py [-m BUNDLE] [-o docs/contact_sheet.png]

Each English prompt and the Chinese one after it get the next style, round and round. Prints the prompts as a
Markdown list, row by row.
"""

from pathlib import Path

import click
from PIL import Image

from miaobi import load
from miaobi.files import check_writable
from miaobi.images import contact_sheet, save_png

PROMPTS = (
    "a brown teddy bear",
    "一只戴帽子的狗",
    "a green motorcycle",
    "热气腾腾的咖啡",
    "an old steam train",
    "紫色的狐狸",
    "a slice of birthday cake",
    "下雪的山",
    "sleepy face",
    "蓝色的雨伞",
    "a purple racing car",
    "中秋节的月饼",
    "little house in the woods",
    "一束红玫瑰",
    "dinosaur",
    "生气的脸",
    "a glass of orange juice",
    "宇宙飞船",
    "golden crown",
    "骑自行车的女人",
    "a ghost that is laughing",
    "一碗面条",
    "pink elephant",
    "黄色的小鸭子",
    "thunderstorm",
    "医生",
    "an open book",
    "黑色的心",
    "guitar for a rock band",
    "圣诞树",
    "a cute baby penguin",
    "警车",
    "treasure map",
    "正在跳舞的人",
    "hot pepper",
    "海里的鲸鱼",
    "a wizard with dark skin",
    "彩虹",
    "broken heart",
    "中国国旗",
)
COLUMNS = 8
SCENES = (
    "一只在花园里飞翔的彩色鹦鹉",
    "two butterflies above a red house on the left, a sheep on the right, in a meadow",
    "三只黄色的鸭子在湖里游泳",
    "a rocket between two planets in space",
    "一辆红色的汽车在街道上，旁边有一棵树",
    "a penguin next to a snowman in the snow",
)


@click.command(help=__doc__)
@click.option("-m", "--model", help="Folder of a bundle.  [default: the one inside the package]")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default="contact_sheet.png", show_default=True
)
@click.option("--style", help="Draw all in this style.  [default: every style in turn]")
@click.option("--scenes", is_flag=True, help="Draw six scenes instead, four times as large.")
def main(model: str | None, output: Path, style: str | None, scenes: bool) -> None:
    check_writable(output)
    pipe = load(model)
    styles = [style] if style else pipe.bundle.styles
    pictures: list[Image.Image] = []
    asked, columns, scale = (SCENES, 3, 4) if scenes else (PROMPTS, COLUMNS, 1)
    with click.progressbar(asked, label="drawing") as prompts:
        for number, prompt in enumerate(prompts):
            style_of = styles[number // 2 % len(styles)]
            pictures += pipe.generate(
                prompt, seed=number, style=style_of, size_px=scale * pipe.bundle.size_px
            )
    save_png(output, contact_sheet(pictures, columns))
    for row in range(0, len(asked), columns):
        click.echo(f"{row // columns + 1}. " + " · ".join(asked[row : row + columns]))


if __name__ == "__main__":
    main()
