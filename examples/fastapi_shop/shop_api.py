"""A small FastAPI application, as it would be without tests: it reads its settings at import."""

from __future__ import annotations

import os

from fastapi import FastAPI, HTTPException
from sqlalchemy import String, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

engine = create_engine(os.environ["DATABASE_URL"])
app = FastAPI()


class Base(DeclarativeBase):
    """All tables."""


class Item(Base):
    """Something on sale."""

    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(80), unique=True)
    price_cents: Mapped[int]


@app.get("/items")
def list_items() -> list[str]:
    """The names of all items."""
    with Session(engine) as session:
        return list(session.scalars(select(Item.name).order_by(Item.name)))


@app.post("/items/{name}", status_code=201)
def add_item(name: str, price_cents: int) -> int:
    """Add an item; its number."""
    with Session(engine) as session:
        if session.scalar(select(Item).where(Item.name == name)):
            raise HTTPException(409, f"there is an item {name!r} already")
        item = Item(name=name, price_cents=price_cents)
        session.add(item)
        session.commit()
        return item.id
