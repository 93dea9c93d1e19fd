-- What Quarto's dialect adds to pandoc's markdown, for pages made from notebooks: cell options, folded code, figures and
-- tables with captions, cross references, callouts, links from notebook to notebook. Two passes: blocks, then citations.
local stringify = pandoc.utils.stringify
local KINDS = { fig = 'Figure', tbl = 'Table', eq = 'Equation', lst = 'Listing', sec = 'Section' }
local count, names, targets = {}, {}, {}

-- "fig-wave" -> "Figure 1", numbered in the order of the page.
local function name_of(id)
  local kind = id:match('^(%a+)%-')
  if not KINDS[kind] then return nil end
  if not names[id] then
    count[kind] = (count[kind] or 0) + 1
    names[id] = KINDS[kind] .. ' ' .. count[kind]
  end
  return names[id]
end

-- Cell options ("#| key: value" lines) apart from the code.
local function options(text)
  local found, rest = {}, {}
  for line in (text .. '\n'):gmatch('(.-)\n') do
    local key, value = line:match('^#|%s*([%w-]+)%s*:%s*(.-)%s*$')
    if key then found[key] = value:gsub('^"(.*)"$', '%1')
    elseif not line:match('^#|') then rest[#rest + 1] = line end
  end
  while rest[1] and rest[1]:match('^%s*$') do table.remove(rest, 1) end
  while rest[#rest] and rest[#rest]:match('^%s*$') do table.remove(rest) end
  return found, table.concat(rest, '\n')
end

local function folded(code, summary)
  return pandoc.Div({ pandoc.RawBlock('html', '<details class="fold"><summary>' .. summary .. '</summary>'), code,
    pandoc.RawBlock('html', '</details>') })
end

local function inlines(text) return pandoc.utils.blocks_to_inlines(pandoc.read(text, 'markdown').blocks) end

local function captioned(blocks, id, caption)
  local line = inlines(caption or '')
  if id and name_of(id) then
    local number = pandoc.Strong({ pandoc.Str(name_of(id) .. '.') })
    line = #line > 0 and pandoc.List({ number, pandoc.Space() }) .. line or pandoc.List({ number })
  end
  local below = pandoc.Div({ pandoc.Plain(line) }, { class = 'caption' })
  return pandoc.Div({ pandoc.Div(blocks), below }, pandoc.Attr(id or '', { 'float' }))
end

local function code_cell(div)
  local chosen, blocks = {}, pandoc.List()
  for _, block in ipairs(div.content) do
    if block.t == 'CodeBlock' then
      chosen, block.text = options(block.text)
      local hide = chosen.echo == 'false' or block.text:match('^%s*$')
      if not hide then
        if chosen['code-fold'] == 'true' or chosen['code-fold'] == 'show' then
          block = folded(block, chosen['code-summary'] or 'Code')
        end
        blocks:insert(block)
      end
    else
      blocks:insert(block)
    end
  end
  if chosen.include == 'false' then return {} end
  local alt, caption = chosen['fig-alt'], chosen['fig-cap'] or chosen['tbl-cap']
  local body = pandoc.Div(blocks, { class = 'cell' }):walk({ Image = function(image)
    image.caption = alt and { pandoc.Str(alt) } or inlines(caption or stringify(image.caption))
    return image
  end })
  if caption or (chosen.label and name_of(chosen.label)) then return captioned({ body }, chosen.label, caption) end
  return body
end

local function callout(div, kind)
  local title, body = nil, div.content
  if body[1] and body[1].t == 'Header' then
    title = body[1].content
    body:remove(1)
  end
  title = title or inlines(div.attributes.title or (kind:sub(1, 1):upper() .. kind:sub(2)))
  return pandoc.Div({ pandoc.Div({ pandoc.Plain(title) }, { class = 'callout-title' }),
    pandoc.Div(body, { class = 'callout-body' }) }, { class = 'callout callout-' .. kind })
end

local function on_div(div)
  if div.classes:includes('cell') then
    if div.classes:includes('code') then return code_cell(div) end
    return div.content   -- prose lies flat on the page: pandoc's table of contents does not look into divs
  end
  for _, class in ipairs(div.classes) do
    local kind = class:match('^callout%-(%a+)$')
    if kind then return callout(div, kind) end
  end
  if name_of(div.identifier or '') and #div.content > 0 then   -- ::: {#fig-x} ... caption :::
    local last = div.content[#div.content]
    if last.t == 'Para' and #div.content > 1 then
      div.content:remove(#div.content)
      return captioned(div.content, div.identifier, pandoc.write(pandoc.Pandoc({ last }), 'markdown'))
    end
  end
end

-- $$ ... $$ {#eq-x}
local function on_para(para)
  local c = para.content
  for i = 1, #c do
    if not c[i] then break end   -- the paragraph has become shorter
    local after = c[i].t == 'Math' and c[i].mathtype == 'DisplayMath' and i + 1 or nil
    if after and c[after] and (c[after].t == 'Space' or c[after].t == 'SoftBreak') then after = after + 1 end
    local id = after and c[after] and c[after].t == 'Str' and c[after].text:match('^{#(eq%-[%w-]+)}$')
    if id then
      for _ = i + 1, after do c:remove(i + 1) end
      local number = pandoc.Span({ pandoc.Str('(' .. name_of(id):match('%d+') .. ')') }, { class = 'number' })
      c[i] = pandoc.Span({ c[i], number }, pandoc.Attr(id, { 'equation' }))
    end
  end
  return para
end

local function on_link(link)
  local path, fragment = link.target:match('^([^#]+%.ipynb)(#?.*)$')
  if path and not path:match('^%a+:') then link.target = (targets[path] or path:gsub('%.ipynb$', '.html')) .. fragment end
  return link
end

-- The TeX reader knows \mathrm{x}, not the older {\rm x}.
local function on_math(math)
  math.text = math.text:gsub('\\[hm]box%f[%A]', '\\text')
  for old, new in pairs({ rm = 'mathrm', bf = 'mathbf', it = 'mathit' }) do
    math.text = math.text:gsub('{([^{}]-)\\' .. old .. '%f[%A]%s*([^{}]*)}', '{%1\\' .. new .. '{%2}}')
  end
  return math
end

-- Columns as wide as their content asks (pandoc divides wide pipe tables evenly), and a table that scrolls by itself.
local function on_table(tbl)
  tbl.colspecs = tbl.colspecs:map(function(spec) return { spec[1], nil } end)
  return pandoc.Div({ tbl }, { class = #tbl.colspecs > 6 and 'wide many' or 'wide' })
end

-- Markdown that a cell displayed, and the one thing that a page must not show twice: front matter.
local function on_raw(raw)
  -- One block: of several in an output pandoc keeps the first as the best.
  if raw.format == 'markdown' then return pandoc.Div(pandoc.read(raw.text, 'markdown').blocks) end
  if raw.format == 'ipynb' and raw.text:match('^%-%-%-') then return {} end
end

local function on_cite(cite)
  local links = pandoc.List()
  for _, c in ipairs(cite.citations) do
    if not names[c.id] then return nil end
    if #links > 0 then links:insert(pandoc.Str(', ')) end
    links:insert(pandoc.Link(names[c.id], '#' .. c.id))
  end
  return links
end

local function read_targets(meta)
  for path, target in pairs(meta.targets or {}) do targets[path] = stringify(target) end
  meta.targets = nil
  return meta
end

return { { Meta = read_targets },
  { RawBlock = on_raw }, { Div = on_div, Para = on_para, Math = on_math, Table = on_table, Link = on_link }, { Cite = on_cite } }
