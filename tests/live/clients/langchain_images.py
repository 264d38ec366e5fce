"""langchain-community: the tool that makes pictures. Usage: BASE"""

import json
import sys

from langchain_community.utilities.dalle_image_generator import DallEAPIWrapper

base = sys.argv[1]
links = DallEAPIWrapper(base_url=base, api_key="none", n=2).run("a fox")
named = DallEAPIWrapper(
    base_url=base, api_key="none", model="dall-e-3", size="1792x1024", quality="hd"
).run("a fox in snow")
print(json.dumps([*links.split("\n"), named]))
