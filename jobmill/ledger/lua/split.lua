-- A stream of documents at the head of the private list becomes its documents, in place:
-- ARGV = process, queue, turn, document, … (single documents; the last may be a stream again).
local process, queue = ARGV[1], ARGV[2]
if not alive(process) then return redis.error_reply('EVICTED ' .. process) end
local t = turn(process, queue, ARGV[3])
if t ~= 'now' then return t or 'refused' end
local mine = P .. queue .. ':taken:' .. process
call('HINCRBY', P .. 'Process:' .. process, 'turn:' .. queue, 1)
call('LPOP', mine)
for i = #ARGV, 4, -1 do call('LPUSH', mine, ARGV[i]) end
return 'ok'
